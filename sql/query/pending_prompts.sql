-- One row per prompt that is asked (see asked_prompts.sql) and that no answer counts for yet, by key: none without an error, or
-- only such as the checks refused, fewer than $attempts. With the evidence of one of its rows, and how often it was answered.
-- Reads reason_prompt and response. Parameter: $attempts.
with answered as (
    select
        r.prompt_key,
        max(coalesce(r.attempt, 1)) as attempts,
        bool_or(r.accepted is not false) as stands
    from response as r
    left semi join reason_prompt as p on p.prompt_key = r.prompt_key
    where r.error is null
    group by r.prompt_key
),
asked as (
    select *
    from (
        select
            p.*,
            row_number() over (
                partition by p.prompt_key order by p.kind, p.user_id nulls first, p.item_id nulls first) as place
        from reason_prompt as p
        left anti join (select prompt_key from answered where stands or attempts >= $attempts) as a
            on a.prompt_key = p.prompt_key
        where
            p.subject is not null
            or coalesce(cardinality(p.liked), 0) + coalesce(cardinality(p.disliked), 0)
                + coalesce(cardinality(p.related), 0) + coalesce(cardinality(p.attributes), 0)
                + coalesce(cardinality(p.content), 0) + coalesce(cardinality(p.praise), 0)
                + coalesce(cardinality(p.fault), 0) + coalesce(cardinality(p.keywords), 0) > 0
    )
    where place = 1
)
select
    p.kind,
    p.user_id,
    p.item_id,
    p.prompt_key,
    p.prompt_text,
    p.answer_stem,
    p.subject,
    p.verdict,
    p.liked,
    p.disliked,
    p.related,
    p.attributes,
    p.content,
    p.praise,
    p.fault,
    p.keywords,
    coalesce(a.attempts, cast(0 as bigint)) as attempts
from answered as a
right join asked as p on a.prompt_key = p.prompt_key
order by p.prompt_key
