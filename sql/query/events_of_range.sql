-- The events of a range of time, sorted. All columns decide, so that equal moments do not leave the order to chance.
-- Reads interaction. Parameters: $range_start and $range_end (outside the range); $from_first and $to_last, whether the
-- range has no start or no end.
select user_id, item_id, event, rating, event_timestamp
from interaction
where
    ($from_first or event_timestamp >= $range_start)
    and ($to_last or event_timestamp < $range_end)
order by event_timestamp, user_id, item_id, event, rating
