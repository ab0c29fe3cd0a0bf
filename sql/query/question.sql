-- How the queries of questions begin, and no query of its own: every prompt with its key and the evidence.
-- Reads reason_prompt. No parameters.
with question as (
    select
        kind,
        item_id,
        user_id,
        subject,
        verdict,
        liked,
        disliked,
        related,
        attributes,
        content,
        praise,
        fault,
        keywords,
        prompt_text,
        answer_stem,
        prompt_key
    from reason_prompt
)
