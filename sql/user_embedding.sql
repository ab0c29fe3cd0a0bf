-- The texts that a user's vector is pooled from: accepted history reasons and corrected ones, or without any of them what
-- the evidence says of the user.
-- Sorted by user, accepted ones first, then by prompt: sums of vectors run in this order.
with accepted as (
    select r.user_id, r.reason, 0 as source, r.prompt_key
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    where s.accepted and r.kind = 'history'
    union all
    select user_id, reason, 1 as source, corrected_from as prompt_key
    from reason_correction
    where reason is not null
),
evidence as (
    select
        user_id,
        prompt_key,
        array_to_string(array_concat(liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'history'
)
select user_id as entity_id, reason
from (
    select user_id, reason, source, prompt_key from accepted
    union all
    select e.user_id, e.said as reason, 2 as source, e.prompt_key
    from evidence as e
    left anti join accepted as a on a.user_id = e.user_id
    where e.said <> ''
)
order by entity_id, source, prompt_key
