-- The rows of items that somebody has met, with every column of the catalogue, by id.
-- Reads item and interaction. No parameters.
select *
from item
where item_id in (select item_id from interaction)
order by item_id
