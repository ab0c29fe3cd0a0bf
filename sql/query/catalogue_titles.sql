-- Every different title of the catalogue, in no order.
-- Reads item. No parameters.
select distinct title
from item
where title is not null
