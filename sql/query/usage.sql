-- One row: what was paid for the prompts of reason_prompt, whichever run paid. How many prompts are answered, how many
-- have only failed, how many attempts have failed, and the sums of tokens. A failed attempt counts no tokens.
-- Reads response and reason_prompt. No parameters.
select
    count(*) filter (where answers > 0) as answered,
    count(*) filter (where answers = 0) as failed,
    sum(attempts - answers) as failed_attempts,
    sum(prompt_tokens) as prompt_tokens,
    sum(cached_tokens) as cached_tokens,
    sum(completion_tokens) as completion_tokens
from (
    select
        r.prompt_key,
        count(*) as attempts,
        count(*) filter (where r.error is null) as answers,
        sum(case when r.error is null then r.prompt_tokens end) as prompt_tokens,
        sum(case when r.error is null then r.cached_tokens end) as cached_tokens,
        sum(case when r.error is null then r.completion_tokens end) as completion_tokens
    from response as r
    left semi join reason_prompt as p on p.prompt_key = r.prompt_key
    group by r.prompt_key
)
