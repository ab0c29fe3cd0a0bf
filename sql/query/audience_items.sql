-- All items that have an audience, with their categories and titles, in no order.
-- Reads item_audience. No parameters.
select item_id, categories, title
from item_audience
