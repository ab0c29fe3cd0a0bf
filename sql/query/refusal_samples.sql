-- One refused reason for each refusal with its evidence, for the report: the first by prompt key, a digest. Columns as in
-- report_samples.sql. `budget` is left out: such a prompt was never asked, so there is no reason to show.
-- Reads reason, reason_score and reason_prompt. No parameters.
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
            partition by s.refusal
            order by r.prompt_key, r.kind, r.user_id, r.item_id) as place
    from reason as r
    join reason_score as s
        on (s.kind is not distinct from r.kind)
        and (s.user_id is not distinct from r.user_id)
        and (s.item_id is not distinct from r.item_id)
    join reason_prompt as p
        on (p.kind is not distinct from r.kind)
        and (p.user_id is not distinct from r.user_id)
        and (p.item_id is not distinct from r.item_id)
    where not s.accepted and s.refusal <> 'budget'
)
where place = 1
order by refusal
