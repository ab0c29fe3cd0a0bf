-- Vectors of items beside those of the version before, where both say something of the item; in no order.
-- Reads item_feature and before_item_feature. No parameters.
select t.embedding as embedding, b.embedding as embedding_before
from item_feature as t
join before_item_feature as b on b.item_id = t.item_id
where not t.missing and not b.missing
