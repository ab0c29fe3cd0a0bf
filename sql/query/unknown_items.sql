-- One row: how many items have events and no row in `item`, and the first of them by id (null where there is none).
-- Reads interaction and item. No parameters.
select count(*) as n, min(item_id) as example
from (select distinct item_id from interaction) as i
left anti join item on item.item_id = i.item_id
