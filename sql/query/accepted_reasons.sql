-- The accepted reasons of one kind with the entity that they describe, for pooling: the item of an item reason, else
-- the user. Sorted by entity and prompt.
-- Reads reason and reason_score. Parameter: $kind.
select case when r.kind = 'item' then r.item_id else r.user_id end as entity_id, r.reason
from reason as r
join reason_score as s
    on (s.kind is not distinct from r.kind)
    and (s.user_id is not distinct from r.user_id)
    and (s.item_id is not distinct from r.item_id)
where s.accepted and r.kind = $kind
order by entity_id, r.prompt_key
