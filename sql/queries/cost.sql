-- What did each night pay for? Attempts, answers and tokens by the day on which the paying interval ended.
-- Reads response. No parameters. Tokens are those of answers; what failed is not counted, though some of it was computed.
-- Tokens that a shared prefix saved are part of the prompt's.
select
    cast(created_timestamp as date) as paid_on,
    count(*) as attempts,
    count(*) filter (where error is null) as answers,
    count(*) filter (where error is not null) as failed,
    sum(prompt_tokens) filter (where error is null) as prompt_tokens,
    sum(cached_tokens) filter (where error is null) as cached_tokens,
    sum(completion_tokens) filter (where error is null) as completion_tokens
from response
group by 1
order by 1
