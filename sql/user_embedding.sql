-- The texts that a user's vector is pooled from: accepted history reasons and corrected ones.
-- Sorted by user, accepted ones first, then by prompt: sums of vectors run in this order.
select entity_id, reason
from (
    select r.user_id as entity_id, r.reason, 0 as source, r.prompt_key
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    where s.accepted and r.kind = 'history'
    union all
    select user_id as entity_id, reason, 1 as source, corrected_from as prompt_key
    from reason_correction
    where reason is not null
)
order by entity_id, source, prompt_key
