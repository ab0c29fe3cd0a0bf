-- How many rows the item $id has in the catalogue.
-- Reads item. Parameter: $id.
select count(*) as n
from item
where item_id = $id
