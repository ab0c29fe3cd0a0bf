-- Three reasons of each kind that the version before had in other words, with their evidence of tonight, for the report: the
-- first by prompt key, a digest. Columns as in report_samples.sql, and `reason_before`.
-- Reads reason, reason_score, reason_prompt and before_reason. No parameters.
select kind, entity, item, reason, reason_before, refusal, score, subject, liked, disliked, related, attributes, content, praise, fault, keywords
from (
    select
        r.kind,
        coalesce(r.user_id, r.item_id) as entity,
        case when r.kind = 'pair' then r.item_id end as item,
        r.reason,
        b.reason as reason_before,
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
    join before_reason as b
        on (b.kind is not distinct from r.kind)
        and (b.user_id is not distinct from r.user_id)
        and (b.item_id is not distinct from r.item_id)
    where r.reason <> b.reason
)
where place <= 3
order by kind, place
