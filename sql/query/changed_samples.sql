-- Three reasons of each kind that the version before had in other words, with their evidence of tonight, for the report: the
-- first by prompt key, a digest. Columns as in report_samples.sql, and `reason_before`.
-- Reads before_reason and sampled_reason, with which it begins. No parameters.
select kind, entity, item, reason, reason_before, refusal, score, subject, liked, disliked, related, attributes, content, praise, fault, keywords
from (
    select
        r.*,
        b.reason as reason_before,
        row_number() over (partition by r.kind order by r.prompt_key, r.user_id, r.item_id) as place
    from sampled_reason as r
    join before_reason as b
        on (b.kind is not distinct from r.kind)
        and (b.user_id is not distinct from r.user_id)
        and (b.item_id is not distinct from r.item_id)
    where r.reason <> b.reason
)
where place <= 3
order by kind, place
