-- What the fields of every reason say, where the job asks for fields ([prompt] fields).
--
-- Of several responses to one prompt the same counts as in reason.sql. A field is null where the job does not ask for it, the
-- answer leaves it empty, or there is no whole answer.
with answered as (
    select
        r.prompt_key,
        r.text,
        r.error,
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
    reason_field(p.answer_stem, a.text, 'what') as what,
    reason_field(p.answer_stem, a.text, 'praised') as praised,
    reason_field(p.answer_stem, a.text, 'faulted') as faulted,
    reason_field(p.answer_stem, a.text, 'for_whom') as for_whom
from reason_prompt as p
left join answered as a on a.prompt_key = p.prompt_key and a.place = 1 and a.error is null
order by kind, user_id nulls last, item_id nulls last
