-- One refused reason for each refusal with its evidence, for the report: the first by prompt key, a digest. Columns as in
-- report_samples.sql. `budget` is left out: such a prompt was never asked, so there is no reason to show.
-- Reads sampled_reason, with which it begins. No parameters.
select kind, entity, item, reason, refusal, score, subject, liked, disliked, related, attributes, content, praise, fault, keywords
from (
    select *, row_number() over (partition by refusal order by prompt_key, kind, user_id, item_id) as place
    from sampled_reason
    where not accepted and refusal <> 'budget'
)
where place = 1
order by refusal
