-- For tonight's items that nothing is known to go with: the titles of the three liked items nearest by text, whose audience
-- is the likeliest. Never published.
--
-- Nearness is the sum of the rarity of the words that both share, of titles, categories, people and descriptions; only
-- words of some rarity count, at least two must be shared, and the 5,000 most liked items are looked at. Whole numbers, so
-- no result depends on the order of the work.
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
nearness as (
    select l.item_id, f.item_id as other_id, f.title, sum(a.rarity) as nearness
    from lonely as l
    join telling as a on a.item_id = l.item_id
    join telling as b on b.word = a.word
    join favourite as f on f.item_id = b.item_id
    where f.item_id <> l.item_id
    group by l.item_id, f.item_id, f.title
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
