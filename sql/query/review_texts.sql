-- The texts of reviews that were written at $from or later, by item and then by time.
-- Reads review. Parameter: $from.
select item_id, text
from review
where event_timestamp >= $from and text is not null
order by item_id, event_timestamp, user_id, text
