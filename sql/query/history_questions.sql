-- Every user who may be asked about, by id: the question about the history with its key and the evidence, and `said`, the text whose
-- vector nights publish of a user without a reason (the same as in user_embedding.sql).
-- Reads question, with which it begins.
select
    *,
    array_to_string(array_concat(liked, attributes, content, praise, fault, keywords), ' ') as said
from question
where kind = 'history'
order by user_id
