-- The newest row that was published of each item and was true at $as_of, with every column of the feature, by item; also where
-- nothing was said of it.
-- Reads item_feature. Parameters: $as_of.
with newest as (
    select item_id, max(event_timestamp) as event_timestamp
    from item_feature
    where event_timestamp <= $as_of
    group by item_id
)
select f.item_id as entity_id, f.*
from newest as n
join item_feature as f on f.item_id = n.item_id and f.event_timestamp = n.event_timestamp
order by entity_id, f.created_timestamp
