-- The newest row of a kind about the user $user_id, the item $item_id or both, with all columns of its table; none where there
-- is no such row. An id that the kind has not is empty.
-- Reads explained: partitions of a published table, with their day as dt. Parameters: $kind, $user_id, $item_id.
select *
from explained
where
    kind = $kind
    -- Plain comparisons with an id, so that row groups without it are not read.
    and (user_id = $user_id or ($user_id = '' and user_id is null))
    and (item_id = $item_id or ($item_id = '' and item_id is null))
order by dt desc
limit 1
