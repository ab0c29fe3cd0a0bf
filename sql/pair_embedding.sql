-- The texts that a pair's vector is pooled from, by part: its accepted reason, what its evidence says, or both, as $vector_of
-- says ([feature] vector_of). Of "reason" and "evidence" the other stands in where there is none.
-- Sorted by pair, part and prompt. `entity_id` is of both ids; the first one's length keeps ('ab', 'c') and ('a', 'bc') apart.
with accepted as (
    select r.user_id, r.item_id, r.prompt_key, r.reason
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    where s.accepted and r.kind = 'pair'
),
said_of as (
    select
        user_id,
        item_id,
        prompt_key,
        array_to_string(
            array_concat(make_array(subject), liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'pair'
),
evidence as (
    select user_id, item_id, prompt_key, said
    from said_of
    where said <> ''
)
select concat(cast(character_length(user_id) as varchar), ':', user_id, item_id) as entity_id, reason, part
from (
    select a.user_id, a.item_id, a.prompt_key, a.reason, 'reason' as part
    from accepted as a
    left anti join (select user_id, item_id from evidence where $vector_of = 'evidence') as e
        on e.user_id = a.user_id and e.item_id = a.item_id
    union all
    select e.user_id, e.item_id, e.prompt_key, e.said as reason, 'evidence' as part
    from evidence as e
    left anti join (select user_id, item_id from accepted where $vector_of = 'reason') as a
        on a.user_id = e.user_id and a.item_id = e.item_id
)
order by entity_id, part, prompt_key
