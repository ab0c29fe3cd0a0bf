-- The latest $max_events items of each user, the latest first, by user.
-- Reads opinion. Parameters: $max_events.
select user_id, item_id
from opinion
where recency <= $max_events
order by user_id, recency
