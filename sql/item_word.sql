-- The words that say most about an item: at most 40 an item, the best first. Never published.
--
-- weight = rarity times the number of those who use the word, in steps of doubling (1, 2-3, 4-7, ... at most 5 steps); the
-- item's description counts as one of them. Whole numbers, so no result depends on the order of the work. A word that is
-- not `is_common`, of one user alone, weighs in that user's sentences and is no keyword.
with used as (
    select item_id, word, count(*) as n, bool_or(user_id is null) as is_described
    from (
        select distinct item_id, user_id, word
        from (select item_id, user_id, unnest(words) as word from item_text)
    )
    group by item_id, word
),
weighed as (
    select
        u.item_id,
        u.word,
        u.n >= 2 or u.is_described as is_common,
        r.rarity * case when u.n >= 16 then 5 when u.n >= 8 then 4 when u.n >= 4 then 3 when u.n >= 2 then 2 else 1 end
            as weight
    from word_rarity as r
    join used as u on u.word = r.word
),
placed as (
    select item_id, word, weight, is_common, row_number() over (partition by item_id order by weight desc, word) as place
    from weighed
    where weight > 0
)
select
    cast(item_id as varchar) as item_id,
    cast(place as bigint) as place,
    cast(word as varchar) as word,
    cast(weight as bigint) as weight,
    is_common
from placed
where place <= 40
order by item_id, place
