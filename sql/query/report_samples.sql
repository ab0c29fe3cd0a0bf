-- Five accepted or refused reasons of each kind with their evidence, for the report: the first by prompt key, a digest, so neither
-- the best nor the worst. Rows refused as `budget` are left out: the prompt was never asked, so there is no reason to show.
-- Reads sampled_reason, with which it begins. Parameter: $accepted, whether accepted or refused ones.
select kind, entity, item, reason, refusal, score, subject, liked, disliked, related, attributes, content, praise, fault, keywords
from (
    select *, row_number() over (partition by kind order by prompt_key, user_id, item_id) as place
    from sampled_reason
    where accepted = $accepted and refusal is distinct from 'budget'
)
where place <= 5
order by kind, place
