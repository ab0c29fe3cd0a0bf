-- The reasons that the templates of alignment write for one kind's prompts, by the id of what they are about: the item
-- of an item prompt, else the user. An item without a title has none, nor has a prompt without evidence.
-- Reads the published reason_prompt. Parameters: $kind; $dt, the interval's partition.
select
    id,
    reason_text(
        '<think>',
        example_answer(
            cast(kind as varchar),
            cast(subject as varchar),
            cast(verdict as varchar),
            cast(liked as varchar[]),
            cast(disliked as varchar[]),
            cast(related as varchar[]),
            cast(attributes as varchar[]),
            cast(make_array() as varchar[]),
            concat('template ', id))) as reason
from (
    select *, case when kind = 'item' then item_id else user_id end as id
    from reason_prompt
    where kind = $kind and dt = $dt
)
where
    (kind = 'item') = (subject is not null)
    and cardinality(liked) + cardinality(disliked) + cardinality(attributes) > 0
order by id
