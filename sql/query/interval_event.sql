-- One row if the interval has an event, else none.
-- Reads interaction. Parameters: $interval_start, $interval_end (the latter is outside the interval).
select 1 as one
from interaction
where event_timestamp >= $interval_start and event_timestamp < $interval_end
limit 1
