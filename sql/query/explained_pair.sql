-- The newest row about the user $user_id and the item $item_id, with all columns of its table; none where there is no such row.
-- Reads explained: partitions of a published table, with their day as dt. Parameters: $user_id, $item_id.
select *
from explained
where user_id = $user_id and item_id = $item_id
order by dt desc
limit 1
