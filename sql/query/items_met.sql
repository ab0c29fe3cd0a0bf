-- Who met which item before the interval's end, in no order; a user and an item may come more than once.
-- Reads opinion, which holds all that was met before the interval, and interaction. Parameters: $interval_start,
-- $interval_end (outside the interval).
select user_id, item_id
from opinion
union all
select user_id, item_id
from interaction
where event_timestamp >= $interval_start and event_timestamp < $interval_end
