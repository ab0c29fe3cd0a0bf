-- What did each night pay for? Attempts, answers and tokens by the day on which the paying interval ended.
-- Reads response. No parameters. Tokens that a shared prefix saved are part of the prompt's.
select
    cast(created_timestamp as date) as paid_on,
    count(*) as attempts,
    count(*) filter (where error is null) as answers,
    count(*) filter (where error is not null) as failed,
    sum(prompt_tokens) as prompt_tokens,
    sum(cached_tokens) as cached_tokens,
    sum(completion_tokens) as completion_tokens
from response
group by 1
order by 1
