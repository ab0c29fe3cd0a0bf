-- Tonight's vectors of items of which something is said, in no order.
-- Reads item_feature. No parameters.
select embedding
from item_feature
where not missing
