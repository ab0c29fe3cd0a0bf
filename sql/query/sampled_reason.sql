-- How the queries of the report's samples begin, and no query of its own: every reason with its score and its evidence. `entity` is the
-- user or the item; of a pair it is the user, and `item` the item.
-- Reads reason, reason_score and reason_prompt. No parameters.
with sampled_reason as (
    select
        r.kind,
        r.user_id,
        r.item_id,
        r.prompt_key,
        coalesce(r.user_id, r.item_id) as entity,
        case when r.kind = 'pair' then r.item_id end as item,
        r.reason,
        s.accepted,
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
        p.keywords
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    join reason_prompt as p
        on (p.kind is not distinct from r.kind)
        and (p.user_id is not distinct from r.user_id)
        and (p.item_id is not distinct from r.item_id)
)
