-- The texts that a user's vector is pooled from, by part: accepted history reasons and corrected ones, what the evidence says
-- of the user, or both, as $vector_of says ([feature] vector_of). Of "reason" and "evidence" the other stands in where there is
-- none.
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
said_of as (
    select
        user_id,
        prompt_key,
        array_to_string(array_concat(liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'history'
),
evidence as (
    select user_id, prompt_key, said
    from said_of
    where said <> ''
)
select user_id as entity_id, reason, part
from (
    select a.user_id, a.reason, a.source, a.prompt_key, 'reason' as part
    from accepted as a
    left anti join (select user_id from evidence where $vector_of = 'evidence') as e on e.user_id = a.user_id
    union all
    select e.user_id, e.said as reason, 2 as source, e.prompt_key, 'evidence' as part
    from evidence as e
    left anti join (select user_id from accepted where $vector_of = 'reason') as a on a.user_id = e.user_id
)
order by entity_id, source, prompt_key
