-- For tonight's items that nothing is known to go with: the titles of the three liked items nearest by text, whose audience
-- is the likeliest. Never published.
--
-- Nearness is the sum of the rarity of the words that both share, of titles, categories, people and descriptions; only
-- the twelve rarest words of an item count, at least two must be shared, and the 5,000 most liked items are looked at, by words
-- that at most 200 of them hold. Whole numbers, so no result depends on the order of the work.
with lonely as (
    select t.item_id
    from item_taste as t
    left anti join item_pair as p on p.item_id = t.item_id
    where t.is_active
),
favourite as (
    select item_id, title
    from item_taste
    where n_likes > 0 and title is not null
    order by n_likes desc, item_id
    limit 5000
),
read as (
    select item_id from lonely
    union
    select item_id from favourite where exists (select 1 from lonely)
),
word as (
    select i.item_id, unnest(content_words(concat_ws(
        ' ', i.title, array_to_string(i.categories, ' '), array_to_string(i.people, ' '), i.description))) as word
    from read as r
    join item as i on i.item_id = r.item_id
),
telling as (
    select w.item_id, w.word, r.rarity
    from word_rarity as r
    join word as w on w.word = r.word
    where r.rarity >= 3
),
lonely_word as (
    select item_id, word, rarity
    from (
        select
            t.item_id,
            t.word,
            t.rarity,
            row_number() over (partition by t.item_id order by t.rarity desc, t.word) as place
        from lonely as l
        join telling as t on t.item_id = l.item_id
    )
    where place <= 12
),
favourite_word as (
    select f.item_id, f.title, t.word, count(*) over (partition by t.word) as n
    from favourite as f
    join telling as t on t.item_id = f.item_id
),
nearness as (
    select a.item_id, b.item_id as other_id, b.title, sum(a.rarity) as nearness
    from favourite_word as b
    join lonely_word as a on a.word = b.word
    where b.n <= 200 and a.item_id <> b.item_id
    group by a.item_id, b.item_id, b.title
    having count(*) >= 2
)
select cast(item_id as varchar) as item_id, array_agg(title order by place) as titles
from (
    select
        item_id,
        title,
        row_number() over (partition by item_id order by nearness desc, other_id) as place
    from nearness
)
where place <= 3
group by item_id
order by item_id
