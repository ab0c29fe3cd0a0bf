-- The text that a pair's vector is made of: its accepted reason, or without one what its evidence says.
-- Sorted by pair. `entity_id` is of both ids; the first one's length keeps ('ab', 'c') and ('a', 'bc') apart.
with accepted as (
    select r.user_id, r.item_id, r.prompt_key, r.reason
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    where s.accepted and r.kind = 'pair'
),
evidence as (
    select
        user_id,
        item_id,
        prompt_key,
        array_to_string(
            array_concat(make_array(subject), liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'pair'
)
select concat(cast(character_length(user_id) as varchar), ':', user_id, item_id) as entity_id, reason
from (
    select user_id, item_id, prompt_key, reason from accepted
    union all
    select e.user_id, e.item_id, e.prompt_key, e.said as reason
    from evidence as e
    left anti join accepted as a on a.user_id = e.user_id and a.item_id = e.item_id
    where e.said <> ''
)
order by entity_id, prompt_key
