-- Five accepted or refused reasons of each kind with their evidence, for the report: the first by prompt key, a digest, so neither
-- the best nor the worst. (The best scores have the likeliest words, which say least.) `entity` is the user or the item; of a pair it is the user, and `item` the item.
-- Rows refused as `budget` are left out: the prompt was never asked, so there is no reason to show.
-- Reads reason, reason_score and reason_prompt. Parameter: $accepted, whether accepted or refused ones.
select kind, entity, item, reason, refusal, score, subject, liked, disliked, related, attributes, content, praise, fault, keywords
from (
    select
        r.kind,
        coalesce(r.user_id, r.item_id) as entity,
        case when r.kind = 'pair' then r.item_id end as item,
        r.reason,
        s.refusal,
        s.score,
        p.subject,
        p.liked,
        p.disliked,
        p.related,
        p.attributes,
        p.content,
        p.praise,
        p.fault,
        p.keywords,
        row_number() over (
            partition by r.kind
            order by r.prompt_key, r.user_id, r.item_id) as place
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    join reason_prompt as p
        on (p.kind is not distinct from r.kind)
        and (p.user_id is not distinct from r.user_id)
        and (p.item_id is not distinct from r.item_id)
    where s.accepted = $accepted and s.refusal is distinct from 'budget'
)
where place <= 5
order by kind, place
