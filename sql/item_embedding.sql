-- The texts that an item's vector is pooled from: its accepted reasons.
-- Sorted by item and prompt: sums of vectors run in this order.
select r.item_id as entity_id, r.reason
from reason as r
join reason_score as s
    on (s.kind is not distinct from r.kind)
    and (s.user_id is not distinct from r.user_id)
    and (s.item_id is not distinct from r.item_id)
where s.accepted and r.kind = 'item'
order by entity_id, r.prompt_key
