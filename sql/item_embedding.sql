-- The texts that an item's vector is pooled from, by part: its accepted reasons, its evidence, or both, as $vector_of says
-- ([feature] vector_of). Of "reason" and "evidence" the other stands in where there is none. Where correction has chosen another
-- text or the evidence (item_correction.sql), that stands in the place of the reasons.
-- Sorted by item, part and prompt: sums of vectors run in this order.
with corrected as (
    select item_id, prompt_key, correction, reason
    from item_correction
    where correction in ('rewritten', 'evidence')
),
accepted as (
    select r.item_id, r.prompt_key, r.reason
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    left anti join corrected as c on c.item_id = r.item_id
    where s.accepted and r.kind = 'item'
    union all
    select item_id, prompt_key, reason
    from corrected
    where correction = 'rewritten'
),
said_of as (
    select
        item_id,
        prompt_key,
        array_to_string(
            array_concat(make_array(subject), attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'item'
),
evidence as (
    select item_id, prompt_key, said
    from said_of
    where said <> ''
)
select item_id as entity_id, reason, part
from (
    select a.item_id, a.prompt_key, a.reason, 'reason' as part
    from accepted as a
    left anti join (select item_id from evidence where $vector_of = 'evidence') as e on e.item_id = a.item_id
    union all
    select e.item_id, e.prompt_key, e.said as reason, 'evidence' as part
    from evidence as e
    left anti join (select item_id from accepted where $vector_of = 'reason') as a on a.item_id = e.item_id
)
order by entity_id, part, prompt_key
