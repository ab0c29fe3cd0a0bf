-- The texts that an item's vector is pooled from: its accepted reasons, or without one what its evidence says of it. Where
-- correction has chosen another text or the evidence (item_correction.sql), that stands in the place of the reasons.
-- Sorted by item and prompt: sums of vectors run in this order.
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
evidence as (
    select
        item_id,
        prompt_key,
        array_to_string(
            array_concat(make_array(subject), attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'item'
)
select item_id as entity_id, reason
from (
    select item_id, prompt_key, reason from accepted
    union all
    select e.item_id, e.prompt_key, e.said as reason
    from evidence as e
    left anti join accepted as a on a.item_id = e.item_id
    where e.said <> ''
)
order by entity_id, prompt_key
