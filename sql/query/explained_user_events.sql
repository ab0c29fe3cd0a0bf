-- How many events the user $id has in the log, and when the earliest and the latest were.
-- Reads interaction. Parameter: $id.
select count(*) as n, min(event_timestamp) as earliest, max(event_timestamp) as latest
from interaction
where user_id = $id
