-- The newest row about the item $id, with all columns of its table; none where there is no such row.
-- Reads explained: partitions of a published table, with their day as dt. Parameter: $id.
select *
from explained
where item_id = $id
order by dt desc
limit 1
