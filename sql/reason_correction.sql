-- What reason_correction is chosen from: the cases of correction with the rewrites that were answered, `rewrites`, in the
-- order of their places; null where there are none. Judging them is not SQL's work.
--
-- Of several responses to one prompt the same counts as in reason.sql.
select c.*, a.rewrites
from correction_case as c
left join (
    select
        p.user_id,
        array_agg(
            named_struct(
                'prompt_key', p.prompt_key,
                'reason', reason_text(p.answer_stem, r.text),
                'finish', r.finish,
                'logprob_sum', r.logprob_sum,
                'completion_tokens', r.completion_tokens)
            order by p.place) as rewrites
    from correction_prompt as p
    join (
        select
            prompt_key,
            text,
            finish,
            logprob_sum,
            completion_tokens,
            row_number() over (
                partition by prompt_key
                order by
                    created_timestamp desc,
                    model_digest,
                    text,
                    finish,
                    logprob_sum,
                    prompt_tokens,
                    completion_tokens) as place
        from response
        where error is null and text is not null
    ) as r on r.prompt_key = p.prompt_key
    where r.place = 1
    group by p.user_id
) as a on a.user_id = c.user_id
order by c.user_id
