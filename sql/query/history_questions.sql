-- Every user who may be asked about, by id: the question about the history with its key and the evidence, and `said`, the text whose
-- vector nights publish of a user without a reason (the same as in user_embedding.sql).
-- Reads reason_prompt.
select
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
    prompt_key,
    array_to_string(array_concat(liked, attributes, content, praise, fault, keywords), ' ') as said
from reason_prompt
where kind = 'history'
order by user_id
