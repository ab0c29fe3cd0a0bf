-- What reason_score is worked out from: every reason with its evidence. Checks and score are not SQL's work.
-- Sorted as reason_score is.
--
-- All keys are compared alike, null with null: a key compared otherwise becomes a filter, and the join quadratic.
select
    r.kind,
    r.user_id,
    r.item_id,
    r.as_of,
    r.prompt_key,
    r.reason,
    r.error,
    r.finish,
    r.logprob_sum,
    r.completion_tokens,
    p.subject,
    p.verdict,
    p.liked,
    p.disliked,
    p.related,
    p.attributes,
    p.content,
    p.praise,
    p.fault,
    p.keywords
from reason as r
join reason_prompt as p
    on (p.kind is not distinct from r.kind)
    and (p.user_id is not distinct from r.user_id)
    and (p.item_id is not distinct from r.item_id)
order by r.kind, r.user_id nulls first, r.item_id nulls first
