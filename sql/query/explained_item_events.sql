-- How many events the item $id has in the log, and when the earliest and the latest were.
-- Reads interaction. Parameter: $id.
select count(*) as n, min(event_timestamp) as earliest, max(event_timestamp) as latest
from interaction
where item_id = $id
