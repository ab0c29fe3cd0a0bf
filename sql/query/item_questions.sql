-- Every item that may be asked about, by id: its question with its key and the evidence, and `said`, the text whose vector nights
-- publish of an item without a reason (the same as in item_embedding.sql).
-- Reads question, with which it begins.
select
    *,
    array_to_string(
        array_concat(make_array(subject), attributes, content, praise, fault, keywords), ' ') as said
from question
where kind = 'item'
order by item_id
