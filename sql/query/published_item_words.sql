-- The words in the newest row of each item that was true at $as_of, by item; none where that row has none, as in those of earlier
-- versions.
-- Reads item_feature. Parameters: $as_of.
with newest as (
    select item_id, max(event_timestamp) as event_timestamp
    from item_feature
    where event_timestamp <= $as_of
    group by item_id
)
select f.item_id as entity_id, f.words
from newest as n
join item_feature as f on f.item_id = n.item_id and f.event_timestamp = n.event_timestamp
where f.words is not null
order by entity_id, f.created_timestamp
