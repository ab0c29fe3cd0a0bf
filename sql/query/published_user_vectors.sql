-- The newest vector that was published of each user and was true at $as_of, by user; none where nothing was said of it.
-- Reads user_feature. Parameters: $as_of.
with newest as (
    select user_id, max(event_timestamp) as event_timestamp
    from user_feature
    where event_timestamp <= $as_of
    group by user_id
)
select f.user_id as entity_id, f.embedding
from newest as n
join user_feature as f on f.user_id = n.user_id and f.event_timestamp = n.event_timestamp
where not f.missing
order by entity_id, f.created_timestamp
