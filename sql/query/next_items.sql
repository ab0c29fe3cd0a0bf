-- What users who had met something before the interval met for the first time in it, by user and item.
-- Reads opinion, which holds all that was met before the interval, and interaction. Parameters: $interval_start, $interval_end
-- (outside the interval).
select n.user_id, n.item_id
from (
    select distinct user_id, item_id
    from interaction
    where event_timestamp >= $interval_start and event_timestamp < $interval_end
) as n
left semi join opinion as u on u.user_id = n.user_id
left anti join opinion as o on o.user_id = n.user_id and o.item_id = n.item_id
order by n.user_id, n.item_id
