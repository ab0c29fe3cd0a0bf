-- The response to the prompt $id, with all columns: of several the one that reason.sql takes.
-- Reads response. Parameter: $id.
select *
from response
where prompt_key = $id
order by
    error is null and text is not null desc,
    accepted is not false desc,
    case when error is null then coalesce(attempt, 1) end,
    created_timestamp desc,
    model_digest,
    text,
    error,
    finish,
    logprob_sum,
    prompt_tokens,
    completion_tokens
limit 1
