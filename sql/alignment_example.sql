-- What the language model is taught: the questions of the nightly job, and answers that name nothing but their evidence.
--
-- Evidence, questions and stems are reason_prompt's. The answer goes on from the stem; which of the phrasings it takes, and
-- whether an example is held out (one in ten, by user or item), is a matter of its key's digest. Evidence that holds
-- nothing to say gives no example. At most $max_examples, dealt by digest.
with keyed as (
    select
        kind,
        user_id,
        item_id,
        as_of,
        subject,
        verdict,
        liked,
        disliked,
        related,
        attributes,
        prompt_text,
        answer_stem,
        encode(sha256(concat(kind, ':', coalesce(user_id, item_id))), 'hex') as digest
    from reason_prompt
),
answered as (
    select
        kind,
        user_id,
        item_id,
        as_of,
        prompt_text,
        answer_stem,
        digest,
        -- Two hexadecimal digits as a number.
        16 * (strpos('0123456789abcdef', substr(digest, 1, 1)) - 1)
            + strpos('0123456789abcdef', substr(digest, 2, 1)) - 1 as deal,
        render_answer(
            kind, subject, verdict, liked, disliked, related, attributes,
            cast(strpos('0123456789abcdef', substr(digest, 3, 1)) - 1 as bigint)) as answer_text
    from keyed
),
placed as (
    select
        kind,
        user_id,
        item_id,
        as_of,
        prompt_text,
        answer_stem,
        answer_text,
        deal,
        row_number() over (order by digest) as place
    from answered
    where answer_text <> ''
)
select
    cast(kind as varchar) as kind,
    cast(user_id as varchar) as user_id,
    cast(item_id as varchar) as item_id,
    as_of,
    case when deal < 26 then 'valid' else 'train' end as part,
    cast(prompt_text as varchar) as prompt_text,
    cast(answer_stem as varchar) as answer_stem,
    cast(answer_text as varchar) as answer_text
from placed
where place <= $max_examples
order by kind, user_id nulls last, item_id nulls last
