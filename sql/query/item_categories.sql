-- All items with their categories, by id.
-- Reads item. No parameters.
select item_id, categories
from item
order by item_id
