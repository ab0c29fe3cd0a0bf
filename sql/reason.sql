-- The language model's answer for every prompt: reason_prompt joined to the response store.
--
-- Of several responses to one prompt the first attempt counts that the checks let stand, else the first, else the latest
-- error; ties are broken by the response's own columns. explained_response.sql takes the same. A prompt that nobody has
-- answered yet has the error `not_generated`. Where the stem begins the answer format of an aligned model the reason is its
-- inner text, and an answer that breaks the format has the error `bad_format`; else the reason is stem and answer as they are.
with answered as (
    select
        r.prompt_key,
        r.text,
        r.error,
        r.finish,
        r.logprob_sum,
        r.prompt_tokens,
        r.completion_tokens,
        row_number() over (
            partition by r.prompt_key
            order by
                r.error is null and r.text is not null desc,
                r.accepted is not false desc,
                case when r.error is null then coalesce(r.attempt, 1) end,
                r.created_timestamp desc,
                r.model_digest,
                r.text,
                r.error,
                r.finish,
                r.logprob_sum,
                r.prompt_tokens,
                r.completion_tokens) as place
    from response as r
    left semi join reason_prompt as p on p.prompt_key = r.prompt_key
)
select
    cast(p.kind as varchar) as kind,
    cast(p.user_id as varchar) as user_id,
    cast(p.item_id as varchar) as item_id,
    p.as_of,
    cast(p.prompt_key as varchar) as prompt_key,
    case when a.error is null and a.text is not null then reason_text(p.answer_stem, a.text) end as reason,
    cast(case
        when a.prompt_key is null then 'not_generated'
        when a.error is not null then a.error
        when a.text is null then 'no_text'
        when reason_text(p.answer_stem, a.text) is null then 'bad_format'
    end as varchar) as error,
    cast(a.finish as varchar) as finish,
    cast(a.logprob_sum as double) as logprob_sum,
    cast(coalesce(a.prompt_tokens, 0) as bigint) as prompt_tokens,
    cast(coalesce(a.completion_tokens, 0) as bigint) as completion_tokens
from reason_prompt as p
left join answered as a on a.prompt_key = p.prompt_key and a.place = 1
order by kind, user_id nulls last, item_id nulls last
